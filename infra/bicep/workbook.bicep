// The operator's workbook. workbook.json lists headings, and queries of the metrics.

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
    serializedData: replace(loadTextContent('workbook.json'), 'COMPONENT_ID', componentId)
  }
}
