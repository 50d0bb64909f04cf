// The page that shows an operator how the gateway does: workbook.json, a list of headings and of questions to the metrics.

@description('Resource id of the Application Insights component.')
param componentId string

@description('Azure region.')
param location string

@description('Tags of every resource.')
param tags object

resource workbook 'Microsoft.Insights/workbooks@2023-06-01' = {
  name: guid(componentId, 'tollgate')
  location: location
  tags: tags
  kind: 'shared'
  properties: {
    displayName: 'Tollgate'
    category: 'workbook'
    sourceId: componentId
    serializedData: loadTextContent('workbook.json')
  }
}
